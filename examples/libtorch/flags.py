"""Prints the flags for a program on the libtorch of this Python's torch, one a line."""

import torch
from torch.utils import cpp_extension

for path in cpp_extension.include_paths():
    print(f"-isystem{path}")
for path in cpp_extension.library_paths():
    print(f"-L{path}")
    print(f"-Wl,-rpath,{path}")
print(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
for flag in ("-std=c++17", "-O1", "-ltorch", "-ltorch_cpu", "-lc10", "-pthread"):
    print(flag)
