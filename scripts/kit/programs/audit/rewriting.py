"""Rewrites Python code such that it reports how it reads and changes objects.

`Rewriter` changes the syntax tree of a source file: an attribute that is read becomes a
call of `__kit_read__`, a target that is assigned to goes through `__kit_target__`, and so
on. The names are those of `HOOKS`, and are looked up among the builtins. The rewritten
tree has the same functions at the same lines, so its code objects can stand in for those
of the original: `compile_pairs` returns which one stands in for which.
"""

import ast
import builtins
import types
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

# What rewritten code calls; watching.py defines them.
HOOKS = (
    "__kit_read__",  # object, name: reads an attribute
    "__kit_method__",  # object, name: reads an attribute that is called at once
    "__kit_item__",  # object, key: reads an item
    "__kit_target__",  # object: stands in for it while an attribute or item is assigned
    "__kit_inplace__",  # value, operator, operand: `value += operand`
    "__kit_use__",  # value: it is iterated over, searched, or passed to a function
    "__kit_enter__",  # value: it is the context manager of a `with`
    "__kit_function__",  # function: of a call by a plain name
    "__kit_global__",  # namespace, name: reads a global variable
    "__kit_stored__",  # namespace, name: a global variable was assigned
    "__kit_cell__",  # function with a closure, name: reads a variable of a closure
    "__kit_bound__",  # the same: a variable of a closure was assigned
    "__kit_globals__",  # builtins.globals, whatever a module calls so
    "__kit_slice__",  # builtins.slice
)
# The parameter by which functions that only hold a closure are told from the code's own.
MARK = "__kit__"

_Function = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SIMPLE = (ast.Name, ast.Attribute)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    function = ast.Name(id=name, ctx=ast.Load())
    return ast.Call(func=function, args=list(arguments), keywords=[])


def _text(value: str) -> ast.expr:
    return ast.Constant(value=value, kind=None)


def _key(node: Any) -> ast.expr:
    """The value of what stands between brackets."""
    kind = type(node).__name__
    if kind == "Index":  # up to Python 3.8
        return _key(node.value)
    if kind == "ExtSlice":
        return ast.Tuple(elts=[_key(part) for part in node.dims], ctx=ast.Load())
    if kind == "Tuple":
        return ast.Tuple(elts=[_key(part) for part in node.elts], ctx=ast.Load())
    if kind == "Slice":
        none = ast.Constant(value=None, kind=None)
        parts = (part or none for part in (node.lower, node.upper, node.step))
        return _call("__kit_slice__", *parts)
    expression: ast.expr = node
    return expression


def _locals(node: Any) -> Tuple[Set[str], Set[str]]:
    """The names that a function binds itself, and those that it declares global."""
    arguments = node.args
    every = [*getattr(arguments, "posonlyargs", []), *arguments.args, *arguments.kwonlyargs]
    every += [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    bound = {arg.arg for arg in every}
    outer: Set[str] = set()
    todo: List[Any] = list(node.body) if isinstance(node.body, list) else [node.body]
    while todo:
        child = todo.pop()
        if isinstance(child, (ast.Global, ast.Nonlocal)):
            outer.update(child.names)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(child.name)
            continue
        elif isinstance(child, ast.Lambda):
            continue
        elif isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            bound.add(child.id)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            bound.add(child.name)
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            bound.update((alias.asname or alias.name).split(".")[0] for alias in child.names)
        elif type(child).__name__ in ("MatchAs", "MatchStar") and child.name:
            bound.add(child.name)
        todo.extend(ast.iter_child_nodes(child))
    return bound - outer, outer


class Rewriter(ast.NodeTransformer):
    """Rewrites the functions of one file.

    Args:
        variables: The global names of the file that can change, so that reads are reported.
        modules: The global names that stand for modules whose attributes are left alone.
        nonlocals: The names that some function of the file declares `nonlocal`.
    """

    def __init__(
        self, variables: FrozenSet[str], modules: FrozenSet[str], nonlocals: FrozenSet[str]
    ) -> None:
        self._variables = variables
        self._modules = modules
        self._nonlocals = nonlocals
        self._classes: List[str] = []
        self._inside = False  # a function, rather than code that ran with the import
        # Of each function around, the names it binds; and those it declares global or nonlocal.
        self._scopes: List[Set[str]] = []
        self._outer: List[Set[str]] = []

    # Functions and classes.

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._classes.append(node.name)
        inside, self._inside = self._inside, False
        node.body = self._visit_all(node.body)
        self._inside = inside
        self._classes.pop()
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        bound, outer = _locals(node)
        self._scopes.append(bound)
        self._outer.append(outer)
        inside, self._inside = self._inside, True
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = self._visit_all(node.body)
        self._inside = inside
        self._outer.pop()
        self._scopes.pop()
        return node

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def _visit_all(self, body: List[Any]) -> List[Any]:
        result: List[Any] = []
        for statement in body:
            visited = self.visit(statement)
            result += visited if isinstance(visited, list) else [visited]
        return result

    def _replace(self, old: ast.AST, new: ast.expr) -> ast.expr:
        return ast.copy_location(new, old)  # type: ignore[return-value,unused-ignore]

    # Names.

    def _is_global(self, name: str) -> bool:
        if name in self._outer[-1]:
            return not any(name in scope for scope in self._scopes[:-1])
        return not any(name in scope for scope in self._scopes)

    def _is_free(self, name: str) -> bool:
        here = name in self._scopes[-1]
        return not here and any(name in scope for scope in self._scopes[:-1])

    def _closure(self, name: str) -> ast.expr:
        """A function that does nothing but hold the variable of a closure."""
        fields: Dict[str, Any] = {
            "args": [ast.arg(arg=MARK, annotation=None)],
            **dict.fromkeys(("vararg", "kwarg")),
            **{name: [] for name in ("kwonlyargs", "kw_defaults", "defaults")},
        }
        if "posonlyargs" in ast.arguments._fields:  # from Python 3.8 on
            fields["posonlyargs"] = []
        arguments = ast.arguments(**fields)
        return ast.Lambda(args=arguments, body=ast.Name(id=name, ctx=ast.Load()))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not self._inside or not isinstance(node.ctx, ast.Load):
            return node
        if node.id in self._nonlocals and self._is_free(node.id):
            return self._replace(
                node, _call("__kit_cell__", self._closure(node.id), _text(node.id))
            )
        if node.id in self._variables and self._is_global(node.id):
            namespace = _call("__kit_globals__")
            return self._replace(node, _call("__kit_global__", namespace, _text(node.id)))
        return node

    def _after(self, node: ast.stmt, targets: List[Any]) -> List[ast.stmt]:
        """A statement, and the report that it has assigned globals or variables of closures."""
        statements: List[ast.stmt] = [node]
        names = [
            child.id
            for target in targets
            for child in ast.walk(target)
            if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load)
        ]
        for name in names if self._inside else []:
            if name not in self._outer[-1]:
                continue
            if any(name in scope for scope in self._scopes[:-1]):
                # What was deleted has no value to close over.
                if isinstance(node, ast.Delete):
                    continue
                report = _call("__kit_bound__", self._closure(name), _text(name))
            else:
                report = _call("__kit_stored__", _call("__kit_globals__"), _text(name))
            statements.append(ast.copy_location(ast.Expr(value=report), node))
        return statements

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        return self._after(node, node.targets)

    def visit_Delete(self, node: ast.Delete) -> Any:
        self.generic_visit(node)
        return self._after(node, node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.target = self.visit(node.target)
        if node.value is not None:
            node.value = self.visit(node.value)
        return self._after(node, [node.target] if node.value is not None else [])

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        if not self._inside or not isinstance(node.target, ast.Name):
            self.generic_visit(node)
            return node
        operator = _text(type(node.op).__name__)
        old = self.visit(ast.copy_location(ast.Name(id=node.target.id, ctx=ast.Load()), node))
        value = _call("__kit_inplace__", old, operator, self.visit(node.value))
        assign: Any = ast.Assign(targets=[node.target], value=value)
        if "type_comment" in ast.Assign._fields:
            assign.type_comment = None
        return self._after(ast.copy_location(assign, node), [node.target])

    def visit_For(self, node: Any) -> Any:
        node.iter = self._used(node.iter)
        self.generic_visit(node)
        return node

    def visit_comprehension(self, node: Any) -> Any:
        node.iter = self._used(node.iter)
        self.generic_visit(node)
        return node

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        for item in node.items if self._inside else []:
            entered = _call("__kit_enter__", item.context_expr)
            item.context_expr = self._replace(item.context_expr, entered)
        return node

    def visit_match_case(self, node: Any) -> Any:
        # A pattern is no expression.
        if node.guard is not None:
            node.guard = self.visit(node.guard)
        node.body = self._visit_all(node.body)
        return node

    # Expressions.

    def _used(self, node: Any) -> Any:
        if not self._inside or not isinstance(node, _SIMPLE):
            return node
        return self._replace(node, _call("__kit_use__", node))

    def _mangled(self, name: str) -> str:
        if self._classes and name.startswith("__") and not name.endswith("__"):
            return "_{}{}".format(self._classes[-1].lstrip("_"), name)
        return name

    def _is_left_alone(self, node: ast.Attribute) -> bool:
        """Whether it is an attribute of a module such as `torch`, or of `super()`."""
        value: ast.expr = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            return value.func.id == "super"
        while isinstance(value, ast.Attribute):
            value = value.value
        return (
            isinstance(value, ast.Name)
            and value.id in self._modules
            and not any(value.id in scope for scope in self._scopes)
        )

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if self._inside and self._is_left_alone(node) and isinstance(node.ctx, ast.Load):
            return node
        self.generic_visit(node)
        if not self._inside:
            return node
        if isinstance(node.ctx, ast.Load):
            name = _text(self._mangled(node.attr))
            return self._replace(node, _call("__kit_read__", node.value, name))
        node.value = self._replace(node.value, _call("__kit_target__", node.value))
        return node

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        if not self._inside:
            return node
        if isinstance(node.ctx, ast.Load):
            return self._replace(node, _call("__kit_item__", node.value, _key(node.slice)))
        node.value = self._replace(node.value, _call("__kit_target__", node.value))
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        node.comparators = [
            self._used(right) if isinstance(operator, (ast.In, ast.NotIn)) else right
            for operator, right in zip(node.ops, node.comparators)
        ]
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        function = node.func
        if not self._inside:
            self.generic_visit(node)
            return node
        if isinstance(function, ast.Name) and function.id == "super":
            return node
        if isinstance(function, ast.Name) and function.id in HOOKS:
            node.args = [self.visit(argument) for argument in node.args]
            return node
        node.args = [self._passed(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self._used(keyword.value)
        if isinstance(function, ast.Attribute) and not self._is_left_alone(function):
            value = self.visit(function.value)
            name = _text(self._mangled(function.attr))
            node.func = self._replace(function, _call("__kit_method__", value, name))
        elif isinstance(function, ast.Name) and function.id in _REFLECTION:
            if not any(function.id in scope for scope in self._scopes):
                node.func = self._replace(function, _call("__kit_function__", function))
        elif not isinstance(function, ast.Attribute):
            node.func = self.visit(function)
        node.args = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        return node

    def _passed(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Starred):
            node.value = self._used(node.value)
            return node
        result: ast.expr = self._used(node)
        return result


# Functions that read or change an attribute by its name, or consume an iterator.
_REFLECTION = {"setattr", "getattr", "hasattr", "delattr", "vars", "next"}


def find_nonlocals(tree: ast.AST) -> FrozenSet[str]:
    """The names that any function of a file declares `nonlocal`."""
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.Nonlocal))
    return frozenset(name for node in statements for name in node.names)


def find_globals(tree: ast.AST) -> FrozenSet[str]:
    """The names that any function of a file declares `global`."""
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.Global))
    return frozenset(name for node in statements for name in node.names)


def find_variables(
    tree: ast.AST, namespace: Dict[str, Any]
) -> Tuple[FrozenSet[str], FrozenSet[str]]:
    """Sorts the global names of a module.

    Returns:
        Those that hold data, which can change; and those of modules to leave alone.
    """
    fixed = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
    variables = {
        name
        for name, value in namespace.items()
        if not isinstance(value, fixed) and not name.startswith("__") and not callable(value)
    }
    modules = {
        name
        for name, value in namespace.items()
        if isinstance(value, types.ModuleType)
        and value.__name__.split(".")[0] in ("torch", "numpy", "math", "F", "builtins")
    }
    return frozenset(variables) | find_globals(tree), frozenset(modules)


def _inner(code: types.CodeType) -> List[types.CodeType]:
    """The functions inside a piece of code, less those of the rewriter."""
    return [
        value
        for value in code.co_consts
        if isinstance(value, types.CodeType) and value.co_varnames[:1] != (MARK,)
    ]


def _pairs(
    old: types.CodeType, new: types.CodeType, result: Dict[types.CodeType, types.CodeType]
) -> None:
    before, after = _inner(old), _inner(new)
    if [code.co_name for code in before] != [code.co_name for code in after]:
        return  # such as an assertion that one of them leaves out
    for one, other in zip(before, after):
        if one.co_freevars == other.co_freevars:
            result[one] = other
        _pairs(one, other, result)


def compile_pairs(
    source: str, file: str, namespace: Dict[str, Any]
) -> Optional[Dict[types.CodeType, types.CodeType]]:
    """Compiles a file twice, as it is and rewritten.

    Args:
        source: The text of the file.
        file: Its name, as the code objects have it.
        namespace: The globals of the module that was made from it.

    Returns:
        For the code of each function the code that stands in for it; None where the source
        does not compile.
    """
    try:
        tree = ast.parse(source, filename=file)
        original = compile(source, file, "exec", dont_inherit=True)
        variables, modules = find_variables(tree, namespace)
        rewriter = Rewriter(variables, modules, find_nonlocals(tree))
        rewritten: Any = ast.fix_missing_locations(rewriter.visit(tree))
        new = compile(rewritten, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    result: Dict[types.CodeType, types.CodeType] = {}
    _pairs(original, new, result)
    return result


def install(hooks: Dict[str, Any], namespaces: Iterable[Dict[str, Any]]) -> None:
    """Puts what rewritten code calls among the builtins.

    Args:
        hooks: What to call, by the names in `HOOKS`.
        namespaces: The globals of rewritten functions. The compiler of torch 2.0 gives a module
            whose functions it has compiled a copy of the builtins.
    """
    for name in HOOKS:
        setattr(builtins, name, hooks[name])
    for namespace in namespaces:
        own = namespace.get("__builtins__")
        if isinstance(own, dict):
            own.update(hooks)
