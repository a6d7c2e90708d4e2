import torch
from torch_geometric.nn import GATv2Conv

conv = GATv2Conv(64, 64, heads=8)
x, edge_index = torch.randn(2000, 64), torch.randint(2000, (2, 20000))

with torch.profiler.profile(record_shapes=True) as profile, torch.no_grad():
    conv(x, edge_index)

# Each gathers a tensor of shape [num_edges, heads, out_channels]:
gathers = [event for event in profile.events() if event.name == 'aten::index_select'
           and event.input_shapes[0] == [2000, 8, 64]]
print(len(gathers), 'gathers')
assert len(gathers) == 2, 'expected one of x_i and one of x_j'
