"""A plugin for mypy: the hooks of a trick are held against the contract.

    [tool.mypy]
    plugins = ["gantricks.mypy_plugin"]

A method of a `Trick` that is marked with `@hookimpl` must have the name of a hook and arguments of that hook. Where it
has annotations, every argument takes what the hook is given, and the result is what the hook returns. Arguments and
annotations may be left out. Only mypy imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from mypy.errorcodes import ErrorCode
from mypy.nodes import Context, Decorator, FuncDef, TypeInfo
from mypy.plugin import MethodContext, Plugin
from mypy.subtypes import is_subtype
from mypy.typeops import bind_self
from mypy.types import CallableType, Type, get_proper_type

MARKER = ".HookimplMarker.__call__"
HOOK = ErrorCode("gantricks-hook", "A hook of a trick agrees with gantricks.hooks", "gantricks")


class HookPlugin(Plugin):
    """Checks every use of `@hookimpl`, which mypy sees as a call of pluggy's marker."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        # any module of pluggy, because the one that defines the marker may change
        return self._check if fullname.startswith("pluggy.") and fullname.endswith(MARKER) else None

    def _check(self, ctx: MethodContext) -> Type:
        given = get_proper_type(ctx.arg_types[0][0]) if ctx.arg_types and ctx.arg_types[0] else None
        if isinstance(given, CallableType) and isinstance(given.definition, FuncDef):
            cls = given.definition.info
            if cls and cls.has_base("gantricks.trick.Trick"):
                self._compare(given.definition, given, ctx)
        return ctx.default_return_type

    def _compare(self, method: FuncDef, given: CallableType, ctx: MethodContext) -> None:
        found = self.lookup_fully_qualified("gantricks.hooks.HookSpecs")
        if found is None or not isinstance(found.node, TypeInfo):
            return

        def fail(told: str, where: Context) -> None:
            ctx.api.fail(told, where, code=HOOK)

        hooks = {name: entry.node for name, entry in found.node.names.items() if name[0] != "_"}
        hook = hooks.get(method.name)
        if not isinstance(hook, Decorator):
            near = get_close_matches(method.name, hooks, 1)
            meant = f'; did you mean "{near[0]}"?' if near else "; gantricks.hooks has them all"
            fail(f'There is no hook "{method.name}"{meant}', method)
            return
        spec = get_proper_type(hook.func.type)
        if not isinstance(spec, CallableType):
            return
        spec, given = bind_self(spec), bind_self(given)
        contract = dict(zip(spec.arg_names, spec.arg_types, strict=True))
        for argument, name, taken in zip(method.arguments[1:], given.arg_names, given.arg_types, strict=False):
            if name not in contract:
                has = ", ".join(str(name) for name in contract)
                fail(f'The hook "{method.name}" has no argument "{name}"; it has {has}', argument)
            elif not is_subtype(contract[name], taken):
                told = f'The hook "{method.name}" gives {_shown(contract[name])} as "{name}", not {_shown(taken)}'
                fail(told, argument)
        if not is_subtype(given.ret_type, spec.ret_type):
            told = f'The hook "{method.name}" returns {_shown(spec.ret_type)}, not {_shown(given.ret_type)}'
            fail(told, method)


def _shown(found: Type) -> str:
    from mypy.messages import format_type_bare
    from mypy.options import Options

    return f'"{format_type_bare(found, Options())}"'


def plugin(version: str) -> type[Plugin]:
    """Return the plugin class; mypy calls this function."""
    return HookPlugin
