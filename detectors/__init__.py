"""Student networks: `nn.Module`s with tensors in and out, that know nothing of xmodal."""
