import torch
from torch import Tensor

from torch_geometric.nn import MessagePassing


class MyWeightedConv(MessagePassing):
    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight.view(-1, 1) * x_j


def test_custom_message_that_cannot_be_compiled():
    class MyUntypedConv(MyWeightedConv):
        def message(self, x_j, ptr):  # `aggregate()` types `ptr` otherwise.
            return x_j

    x = torch.randn(4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])

    # Compile `propagate()` of the base class first:
    conv = MyWeightedConv()
    assert conv.propagate.__module__.endswith('MyWeightedConv_propagate')

    conv = MyUntypedConv()
    assert conv.propagate.__module__.endswith('message_passing')
    out = conv(x, edge_index, torch.rand(4))
    assert torch.allclose(out[0], x[0] + x[1])


def test_orig_propagate_is_not_compiled():
    class MyOtherConv(MyWeightedConv):
        pass

    MyWeightedConv()
    conv = MyOtherConv()
    assert conv.propagate.__module__.endswith('MyOtherConv_propagate')
    # This one is called when explaining:
    assert conv._orig_propagate.__module__.endswith('message_passing')
