"""What is noted of one method."""

import ast
import textwrap

from kit.audit import notes
from kit.audit.classes import Function, Module, Program
from kit.audit.notes import ALWAYS, CACHED, MISSING, TRAINING, Notes, Reference
from kit.audit.statements import Scan


def notes_of(text: str) -> Notes:
    (method,) = ast.parse(textwrap.dedent(text)).body
    assert isinstance(method, Function)
    return Scan(Program(None), Module("own", "own.py"), method).notes


def test_each_note_has_its_guards() -> None:
    noted = notes_of("""\
        def forward(self, x):
            if self.training:
                self.a.b = x
            if self.cached and self.c is None:
                self.c = self.d
            self.encode(x)
            super().forward(x)
            self.register_forward_pre_hook(self.hook)
    """)
    writes = [(write.path, write.line, write.guards) for write in noted.writes]
    assert writes == [
        (("a", "b"), 3, frozenset({ALWAYS, TRAINING})),
        (("c",), 5, frozenset({ALWAYS, CACHED, f"{MISSING}c"})),
    ]
    assert (("d",), 5, writes[1][2]) in noted.reads
    always = frozenset({ALWAYS})
    references = [reference for reference in noted.references if reference.name != "hook"]
    assert Reference("encode", always) in references
    assert Reference("forward", always, is_super=True) in references
    assert noted.pre_hooks == {"hook"}


def test_a_guard_names_the_key_of_the_container_that_lacks_it() -> None:
    noted = notes_of("""\
        def forward(self, x, y):
            if x not in self.a.b:
                self.a.b[x] = y
    """)
    (write,) = noted.writes
    assert (write.path, write.key) == (("a", "b"), "x")
    assert notes.missing_key(write.path, write.key) in write.guards
    assert notes.missing_key(("a",), "x") not in write.guards


def test_methods_share_no_notes() -> None:
    assert notes_of("def forward(self, x): self.a = x").writes
    assert notes_of("def forward(self, x): return x") == Notes()
