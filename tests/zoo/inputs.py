"""Arguments for the models: other values in each call, and mostly other sizes too."""

import torch

WIDTH = 8


def rows() -> torch.Tensor:
    """Some rows of features."""
    return torch.rand(int(torch.randint(3, 9, ())), WIDTH)


def five_rows() -> torch.Tensor:
    """Rows, always as many."""
    return torch.rand(5, WIDTH)


def graph() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and edges of a graph."""
    x = rows()
    return x, torch.randint(x.size(0), (2, 12))


def graph_of_five() -> tuple[torch.Tensor, torch.Tensor]:
    """A graph, always of five nodes and twelve edges."""
    return torch.rand(5, WIDTH), torch.randint(5, (2, 12))


def one_graph() -> tuple[torch.Tensor, torch.Tensor]:
    """Other features on one and the same graph."""
    return torch.rand(5, WIDTH), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
