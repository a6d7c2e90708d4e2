"""Small models whose races are known: the text of a module for test_audit_program.py."""

from __future__ import annotations

TOYS = """
import functools
import os
import signal
import threading

import torch
from torch import nn


class Attribute(nn.Module):
    def forward(self, x):
        self.cache = x * 2
        y = x + 1
        return y + self.cache


class Deleted(nn.Module):
    def forward(self, x):
        self.cache = x * 2
        y = self.cache + 1
        del self.cache
        return y


class Flag(nn.Module):
    def __init__(self):
        super().__init__()
        self.flow = 'a'

    def forward(self, x):
        self.flow = 'a'
        y = x * (2 if self.flow == 'a' else 3)
        self.flow = 'b'
        return y + (2 if self.flow == 'a' else 3)


class ReadFirst(nn.Module):
    busy = False

    def forward(self, x):
        factor = 3 if self.busy else 2
        self.busy = True
        y = x * factor
        self.busy = False
        return y


class Size(nn.Module):
    def forward(self, x):
        self.rows = x.size(0)
        return x.sum() / self.rows


class Property(nn.Module):
    @property
    def cache(self):
        return self._cache

    @cache.setter
    def cache(self, value):
        self._cache = value

    def forward(self, x):
        self.cache = x * 2
        return self.cache + 1


class OwnSetter(nn.Module):
    def __setattr__(self, name, value):
        if name == 'cache':
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, x):
        self.cache = x * 2
        return self.cache + 1


class PastSetter(nn.Module):
    def forward(self, x):
        self.__dict__['cache'] = x * 2
        y = self.cache + 1
        self.__dict__['cache'] = None
        return y


class Buffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('state', torch.zeros(8))

    def forward(self, x):
        self.state.copy_(x[0])
        return x + self.state


class HeldDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.held = {}

    def forward(self, x):
        self.held['value'] = x * 2
        return x + self.held['value']


class HeldDictOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.held = {}

    def forward(self, x):
        held = self.held
        held['value'] = x * 2
        for _ in range(200):
            x = x + 1
        return x + held['value']


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = [Attribute()]

    def forward(self, x):
        return self.hidden[0](x)


class NotReadBack(nn.Module):
    def forward(self, x):
        self.last = x
        return x * 2


class Neighbour(nn.Module):
    # Only `first` matters, and the other one is written and read beside it.
    def forward(self, x):
        self.first, self.second = x * 2, x * 3
        self.second = self.second.clamp(max=1)
        return self.first + 1


class Same(nn.Module):
    def forward(self, x):
        self.mode = 'mean'
        return x.mean(0) if self.mode == 'mean' else x.sum(0)


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.guard = [threading.Lock()]

    def forward(self, x):
        with self.guard[0]:
            self.cache = x * 2
            return self.cache + 1


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.constant = None

    def forward(self, x):
        if self.constant is None:
            self.constant = torch.ones(8)
        return x + self.constant


class Clean(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.BatchNorm1d(8))

    def forward(self, x):
        return self.parts(x)


class OfThread:
    pass


class Own(threading.local):
    def __init__(self):
        self.held = OfThread()


class CleanByThread(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.local = Own(), threading.local()

    def forward(self, x):
        if not hasattr(self.local, 'held'):
            self.local.held = OfThread()
        self.own.held.cache, self.local.held.cache = x * 2, x * 3
        y = x + 1
        return y + self.own.held.cache + self.local.held.cache


class OfAll:
    pass


@functools.lru_cache(maxsize=None)
def get_of_all():
    return OfAll()


class ByThreadToOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.local = threading.local()

    def forward(self, x):
        self.local.held = get_of_all()
        self.local.held.cache = x * 2
        y = x + 1
        return y + self.local.held.cache


CASES = [Attribute, Deleted, Flag, ReadFirst, Size, Property, OwnSetter, PastSetter, Buffer,
         HeldDict, HeldDictOnce, Unregistered, NotReadBack, Neighbour, Same, Locked, Cached, Clean,
         CleanByThread, ByThreadToOne]


class Toys(nn.Module):
    def __init__(self):
        super().__init__()
        self.cases = nn.ModuleDict({cls.__name__: cls() for cls in CASES})
        self.convs = nn.ModuleList([Clean(), Attribute()])

    def forward(self, x, scale=None):
        print('the model prints')
        outs = {name: case(x) for name, case in self.cases.items()}
        return {**outs, 'convs': [conv(x) for conv in self.convs], 'nothing': None}


calls = []


def get_inputs():
    # The last request has another shape than the others.
    calls.append(1)
    return torch.randn(5 if len(calls) == 4 else 4, 8)


def get_request():
    return {'x': torch.randn(4, 8), 'scale': None}


def get_same():
    return (torch.ones(4, 8),)


def get_wrong():
    return torch.randn(4, 7)


def get_broken():
    raise KeyError('there is no such graph')


class Nothing(nn.Module):
    def forward(self, x):
        return None


class Noise(nn.Module):
    def forward(self, x, scale):
        self.cache = torch.rand(4, 8)
        return x + self.cache


class Carried(nn.Module):
    last = 0

    def forward(self, x, scale):
        out, self.last = x + self.last, x
        return out


class Keen(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def train(self, mode=True):
        return self

    def forward(self, x, scale):
        return x.mul_(2) + 1


class TwoLocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = threading.Lock(), threading.Lock()

    def forward(self, x):
        first, second = self.one, self.two
        if x.sum() > 0:
            first, second = second, first
        with first:
            y = x * 2
            with second:
                return y + 1


class OneLock(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock, self.kept = threading.Lock(), None

    def forward(self, x):
        with self.lock:
            self.kept = x * 2
            y = self.kept + 1
            y = y * 2
            y = y + 3
            y = y * 4
            return y + self.kept


class Seeds(nn.Module):
    def forward(self, x):
        torch.manual_seed(int(x.sum()))
        y = x * 2
        return y + torch.rand(1)


class Served(nn.Module):
    def forward(self, x):
        return x * 2

    def serve(self, x):
        self.last = x * 2
        y = x + 1
        return y + self.last


class Forces(nn.Module):
    def forward(self, x):
        position = x.clone().requires_grad_()
        return torch.autograd.grad((position ** 3).sum(), position)[0]


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(3)

    def forward(self, x):
        return self.linear(x)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1)
        self.cached = False

    def forward(self, x):
        if self.cached:
            self.last = x
        self.last = x * 3
        return x + 1


def get_scripted():
    return torch.jit.script(Scripted().eval())


class Dies(nn.Module):
    def forward(self, x):
        if threading.current_thread().name.startswith('kit-stress'):
            os.kill(os.getpid(), signal.SIGSEGV)
        return x * 2


def count_on():
    n = 0
    while True:
        yield n
        n += 1


class HoldsGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.numbers = count_on()

    def forward(self, x):
        next(self.numbers)
        return x * 2


means = {}


class FirstInGlobal(nn.Module):
    def forward(self, x):
        n = x.size(1)
        if n not in means:
            means[n] = x.mean()
        return x - means[n]


class KeptByAddress(nn.Module):
    def __init__(self):
        super().__init__()
        self.means = {}

    def forward(self, x):
        if id(x) not in self.means:
            self.means[id(x)] = x.mean()
        return x - self.means[id(x)]


def get_number():
    return 3
"""
