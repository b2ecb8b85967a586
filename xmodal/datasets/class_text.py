"""What to ask a teacher for the classes of a data set.

Names of classes are made for tables: `otherfurniture`, `driveable_surface`, `counter`. Here they
become words that a text encoder knows, with synonyms joined by `|`, whose vectors teachers average.
Sentences around the words (`a photo of a {}`) are the teacher's own affair where it has templates,
as `openclip` does; `prompt_ensemble` writes them out for a teacher that has none.

Source:
    Radford et al., CLIP, ICML 2021, section 3.1.4 (prompt ensembles); Peng et al., OpenScene, CVPR
    2023, whose supplement spells out the classes of nuScenes in this way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

ROOM_TEMPLATES = (
    "a photo of a {}",
    "a {} in a room",
    "a photo of a {} in the scene",
    "a close-up of a {}",
    "there is a {} in the scene",
)
"""Sentences for things in rooms."""

CLASS_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        # ScanNet: NYU40 and the benchmark of 20 classes
        "cabinet": "cabinet | cupboard",
        "sofa": "sofa | couch",
        "bookshelf": "bookshelf | bookcase",
        "picture": "picture | painting on a wall | picture frame",
        "counter": "kitchen counter | counter | countertop",
        "curtain": "curtain | window curtain",
        "refrigerator": "refrigerator | fridge",
        "shower curtain": "shower curtain | bathroom shower curtain",
        "toilet": "toilet | toilet bowl",
        "sink": "sink | wash basin",
        "bathtub": "bathtub | bath tub",
        "otherfurniture": "other furniture | piece of furniture",
        "otherstructure": "other structure | part of a building",
        "otherprop": "other object | household object",
        "shelves": "shelves | shelf",
        "floor mat": "floor mat | rug",
        "television": "television | tv screen",
        "books": "books | book",
        "clothes": "clothes | clothing",
        "nightstand": "nightstand | bedside table",
        "blinds": "blinds | window blinds",
        "bag": "bag | handbag",
        "box": "box | cardboard box",
        # ScanNet200
        "couch": "couch | sofa",
        "tv": "television | tv",
        "monitor": "computer monitor | monitor",
        "keyboard": "computer keyboard | keyboard",
        "mouse": "computer mouse",
        "plant": "plant | house plant",
        "bin": "bin | waste bin",
        "stand": "stand | small table",
        "seat": "seat | theatre seat",
        "rail": "rail | railing",
        "rack": "rack | storage rack",
        "bar": "bar | bar counter",
        "scale": "bathroom scale | weighing scale",
        "mat": "mat | door mat",
        "vent": "air vent | ventilation grille",
        "divider": "room divider | partition",
        "case of water bottles": "case of water bottles | pack of water bottles",
        "cd case": "compact disc case | cd case",
        "handicap bar": "grab bar | handicap bar",
        "stair rail": "stair rail | banister",
        "structure": "structure | part of a building",
        "object": "object | thing",
        "furniture": "furniture | piece of furniture",
        "machine": "machine | appliance",
        "tube": "tube | cardboard tube",
        "ledge": "ledge | wall ledge",
        "power outlet": "power outlet | wall socket",
        "range hood": "range hood | kitchen extractor hood",
        "light": "light | lamp fixture",
        "board": "board | whiteboard | blackboard",
        # S3DIS
        "bookcase": "bookcase | bookshelf",
        "beam": "ceiling beam | structural beam",
        "column": "column | pillar",
        "clutter": "clutter | other object",
        # nuScenes, detection and lidarseg
        "barrier": "barrier | road barrier",
        "bicycle": "bicycle | bike",
        "construction_vehicle": "construction vehicle | excavator | crane",
        "pedestrian": "pedestrian | person walking",
        "traffic_cone": "traffic cone",
        "trafficcone": "traffic cone",
        "driveable_surface": "road | street | driveable surface",
        "other_flat": "traffic island | paved ground",
        "sidewalk": "sidewalk | pavement | footpath",
        "terrain": "terrain | grass | lawn",
        "manmade": "building | wall of a building | pole",
        "vegetation": "vegetation | tree | bush",
    }
)
"""Words for names that do not speak for themselves."""

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def class_texts(names: Sequence[str]) -> list[str]:
    """The texts to ask for some classes, in their order.

    A synonym that is the name of another class is left out, so that `column` is not also asked as
    `pillar` where a data set tells the two apart.

    Args:
        names: Names of classes as a data set has them. A name with `|` is a text already and stays.

    Returns:
        One text a name; synonyms are joined with `|`.

    Raises:
        ValueError: If a name is blank.
    """
    taken = {_words(name) for name in names}
    texts: list[str] = []
    for name in names:
        own = _words(name)
        if not own:
            raise ValueError(f"a class needs a name, got {name!r}")
        synonyms = [part.strip() for part in _text_of(name, own).split("|")]
        if "|" not in name:
            # A class keeps at least its own words.
            synonyms = [s for s in synonyms if s == own or s not in taken] or [own]
        texts.append(" | ".join(synonyms))
    return texts


def prompt_ensemble(text: str, templates: Sequence[str] = ROOM_TEMPLATES) -> str:
    """A text with every synonym in every sentence, for a teacher without templates of its own.

    Args:
        text: A text as from `class_texts`.
        templates: Sentences with one `{}`, where the words go.

    Raises:
        ValueError: If a sentence lacks `{}`, or there is none.
    """
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(f"templates are sentences with one {{}} each, got {list(templates)}")
    synonyms = [part.strip() for part in text.split("|") if part.strip()]
    return " | ".join(t.replace("{}", words) for words in synonyms for t in templates)


def _text_of(name: str, own: str) -> str:
    if "|" in name:
        return name
    for key in (name, name.lower(), name.rpartition(".")[2].lower(), own):
        if key in CLASS_TEXTS:
            return CLASS_TEXTS[key]
    return own


def _words(name: str) -> str:
    """A name as words: `movable_object.traffic_cone` and `TrafficCone` are a traffic cone.

    Of nuScenes' full names the last part says what it is, except for kinds of people and buses.
    """
    parts = name.split(".")
    last = parts[-2:] if parts[0] == "human" or parts[-2:-1] == ["bus"] else parts[-1:]
    if len(last) == 2:
        last = last[::-1]
    words = _CAMEL.sub(" ", " ".join(last)).replace("_", " ").replace("-", " ")
    return " ".join(words.split()).lower()
