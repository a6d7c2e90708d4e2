"""What one function does to state that outlives its call."""

import ast
from textwrap import dedent

from kit.audit.classes import Function, Module
from kit.audit.outer import Outer, bound_names, declared_names


def function(text: str) -> Function:
    node = ast.parse(dedent(text)).body[0]
    assert isinstance(node, Function)
    return node


def scanned(text: str, **names: str) -> Outer:
    others = {name: (path,) for name, path in names.items()}
    return Outer(None, Module("own", "own.py"), function(text), None, others, ["held"])


def written(scan: Outer) -> list[tuple[tuple[str, ...], str]]:
    return [(write.path, write.how) for write in scan.notes.writes]


def test_names_that_outlive_a_call() -> None:
    text = """
        def f(x):
            global total
            total = x
            total += 1
            items["a"] = x
            items.append(x)
            other = x
    """
    scan = scanned(text, total="m:total", items="m:items", other="m:other")
    assert written(scan) == [
        (("m:total",), "assignment"),
        (("m:total",), "augmented assignment"),
        (("m:items",), "in-place change"),
        (("m:items",), "in-place change"),
    ]


def test_a_name_that_the_function_binds_anew() -> None:
    assert written(scanned("def f(x):\n    items = {}\n    items[0] = x\n", items="m:items")) == []


def test_methods_of_modules_and_classes_change_nothing() -> None:
    scan = scanned("def f(x):\n    held.add(x)\n    held.last = x\n", held="m:held")
    assert written(scan) == [(("m:held", "last"), "assignment")]


def test_reads_and_calls() -> None:
    scan = scanned("def f(x):\n    if x:\n        g(items)\n", items="m:items")
    assert [(path, line) for path, line, _ in scan.notes.reads] == [(("m:items",), 3)]
    ((call, guards),) = scan.calls
    assert ast.unparse(call) == "g(items)" and not guards


def test_names_of_a_function() -> None:
    node = function(
        """
        def f(a, *b, c=1, **d):
            global e
            e = 1
            import g.h as i, j.k
            for l in a:
                def m():
                    nonlocal l
                    n = 1
            try:
                pass
            except ValueError as o:
                pass
            match a:
                case [p, *q]:
                    pass
            return lambda r: r
        """
    )
    assert bound_names(node) == {*"abcdijlmopq"}
    assert declared_names(node) == {"e", "l"}
