"""The modality graph: nodes, edges, checking and running them."""

from xmodal.graph.graph import Graph, load_graph
from xmodal.graph.parts import Cells, Edge, Grid, Node

__all__ = ["Cells", "Edge", "Graph", "Grid", "Node", "load_graph"]
