"""A graph of who depends on whom."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, ClassVar

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class CycleError(Exception):
    """Two depend on each other."""


class DOT:
    """The parts of the DOT language that a graph is drawn with."""

    HEAD = "{IN}{type} {id} {{\n{INp}graph [{attrs}]"
    ATTR = '{name}="{value}"'
    ATTRSEP = ", "
    NODE = '{INp}"{0}" [{attrs}]'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    TAIL = "{IN}}}"
    DIRS: ClassVar[dict[str, str]] = {"graph": "--", "digraph": "->"}


class DependencyGraph:
    """Nodes, and from each the edges to what it depends on.

    Arguments:
        it: pairs of a node and its dependencies.
        formatter: draws the graph (:class:`GraphFormatter`).
    """

    def __init__(self, it: Iterable[tuple[Any, Iterable[Any]]] | None = None, formatter: Any = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add a node."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:
        """Let A depend on B."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Add all nodes of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Any, Iterable[Any]]]) -> None:
        """Add nodes with their dependencies."""
        pairs = list(it)
        for node, _ in pairs:
            self.add_arc(node)
        for node, others in pairs:
            for other in others:
                self.add_edge(node, other)

    def edges(self) -> list[Any]:
        """The nodes that depend on something."""
        return [node for node, others in self.items() if others]

    def valency_of(self, obj: Any) -> int:
        """How many ways lead down from this node."""
        others = self.adjacent.get(obj, ())
        return len(others) + sum(self.valency_of(other) for other in others)

    def topsort(self) -> list[Any]:
        """All nodes, each after those that it depends on.

        Raises:
            CycleError: two depend on each other.
            KeyError: one depends on what is no node.
        """
        done: dict[Any, None] = {}
        for node in self.adjacent:
            self._visit(node, done, ())
        return list(done)

    def _visit(self, node: Any, done: dict[Any, None], path: tuple[Any, ...]) -> None:
        if node in done:
            return
        if node in path:
            raise CycleError(f"{node!r} depends on itself, by way of {', '.join(map(repr, path))}")
        for other in self.adjacent[node]:
            self._visit(other, done, (*path, node))
        done[node] = None

    def to_dot(self, fh: Any, formatter: Any = None) -> None:
        """Write the graph to a file, in the DOT language."""
        draw = formatter or self.formatter
        lines = [draw.head()]
        for node, others in self.items():
            lines.append(draw.node(node) if others else draw.terminal_node(node))
            lines.extend(draw.edge(node, other) for other in others)
        lines.append(draw.tail())
        fh.write("".join(f"{line.decode()}\n" for line in lines))

    def format(self, obj: Any) -> Any:
        """A node as the formatter names it."""
        return self.formatter(obj) if self.formatter else obj

    def items(self) -> Any:
        """Pairs of a node and what it depends on."""
        return self.adjacent.items()

    iteritems = items

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """A node with all that it depends on, a line each."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        lines += [f"{' ' * 5 * level}{self.repr_node(other, level + 1, fmt)}" for other in self.adjacent.get(obj, ())]
        return "\n".join(lines)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)


class GraphFormatter:
    """Draws a graph in the DOT language.

    Arguments:
        root: what it is the graph of.
        type: ``digraph`` or ``graph``.
        id: its name.
        indent: how far it is from the left.
        inw: by what.
        scheme: attributes of everything in it.
    """

    _attr = DOT.ATTR
    _attrsep = DOT.ATTRSEP
    _head = DOT.HEAD
    _node = DOT.NODE
    _edge = DOT.EDGE
    _tail = DOT.TAIL
    _dirs: ClassVar[dict[str, str]] = DOT.DIRS

    scheme: ClassVar[dict[str, Any]] = {
        "shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue",
    }  # fmt: skip
    edge_scheme: ClassVar[dict[str, Any]] = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": 0.7}
    node_scheme: ClassVar[dict[str, Any]] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: ClassVar[dict[str, Any]] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: ClassVar[dict[str, Any]] = {"bgcolor": "mintcream"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.root = root
        self.type = type or "digraph"
        self.id = id or "dependencies"
        self.direction = self._dirs[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}  # type: ignore[misc]
        self.graph_scheme = {**self.graph_scheme, "root": self.label(root)}  # type: ignore[misc]

    def __call__(self, obj: Any) -> Any:
        return self.label(obj)

    def attr(self, name: str, value: Any) -> bytes:
        """One attribute."""
        return self.FMT(self._attr, name=name, value=value)

    def attrs(self, d: Mapping[str, Any], scheme: Mapping[str, Any] | None = None) -> str:
        """Attributes: those of everything, of this kind of thing, and of this one."""
        merged = {**self.scheme, **(scheme or {}), **d}
        return self._attrsep.join(self.attr(name, value).decode() for name, value in merged.items())

    def head(self, **attrs: Any) -> bytes:
        """How the graph begins."""
        return self.FMT(self._head, id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme))

    def tail(self) -> bytes:
        """How it ends."""
        return self.FMT(self._tail)

    def label(self, obj: Any) -> Any:
        """A node's name."""
        return obj

    def node(self, obj: Any, **attrs: Any) -> bytes:
        """One that depends on others."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> bytes:
        """One that depends on nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        """Says that a depends on b."""
        return self.draw_edge(a, b, None, attrs)

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> bytes:
        """A part of the language, filled in and encoded."""
        return fmt.format(*args, **{**kwargs, "IN": self.IN, "INp": self.INp}).encode()

    def draw_edge(
        self, a: Any, b: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> bytes:
        """An edge with these attributes."""
        return self.FMT(
            self._edge, self.label(a), self.label(b), dir=self.direction,
            attrs=self.attrs(attrs or {}, self.edge_scheme if scheme is None else scheme),
        )  # fmt: skip

    def draw_node(
        self, obj: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None
    ) -> bytes:
        """A node with these attributes."""
        return self.FMT(self._node, self.label(obj), attrs=self.attrs(attrs or {}, scheme))
