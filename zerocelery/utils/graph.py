"""A graph of who depends on whom."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

__all__ = ("DependencyGraph", "GraphFormatter")


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
        """How many nodes there are below this one, itself included."""
        return 1 + sum(self.valency_of(other) for other in self.adjacent.get(obj, ()))

    def topsort(self) -> list[Any]:
        """All nodes, each after those that it depends on.

        Raises:
            ValueError: two depend on each other.
        """
        done: dict[Any, None] = {}
        for node in self.adjacent:
            self._visit(node, done, ())
        return list(done)

    def _visit(self, node: Any, done: dict[Any, None], path: tuple[Any, ...]) -> None:
        if node in done:
            return
        if node in path:
            raise ValueError(f"{node!r} depends on itself")
        for other in self.adjacent.get(node, ()):
            self._visit(other, done, (*path, node))
        done[node] = None

    def to_dot(self, fh: Any, formatter: Any = None) -> None:
        """Write the graph to a file, in the DOT language."""
        draw = formatter or self.formatter
        lines = [draw.head()]
        for node, others in self.items():
            lines.append(draw.node(node) if not others else "")
            lines.extend(draw.edge(node, other) for other in others)
        lines.append(draw.tail())
        fh.write("\n".join(line for line in lines if line) + "\n")

    def format(self, obj: Any) -> Any:
        """A node as the formatter names it."""
        return self.formatter(obj) if self.formatter else obj

    def items(self) -> Any:
        """Pairs of a node and what it depends on."""
        return self.adjacent.items()

    iteritems = items

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
        return "\n".join(self._lines(node, 0) for node in self.adjacent)

    def _lines(self, node: Any, level: int) -> str:
        below = [self._lines(other, level + 1) for other in self.adjacent.get(node, ())]
        return "\n".join([f"{'     ' * level}{node}({self.valency_of(node)})", *below])


class GraphFormatter:
    """Draws a graph in the DOT language.

    Arguments:
        attrs: attributes of the graph.
    """

    def __init__(self, root: Any = None, type: str = "digraph", id: str = "dependencies", **attrs: Any) -> None:
        self.root = root
        self.type = type
        self.id = id
        self.attrs = {"arrowhead": "vee", **attrs}

    def __call__(self, obj: Any) -> Any:
        return self.label(obj)

    def label(self, obj: Any) -> Any:
        """A node's name."""
        return obj

    def head(self) -> str:
        return f"{self.type} {self.id} {{"

    def tail(self) -> str:
        return "}"

    def node(self, obj: Any) -> str:
        return f'    "{self.label(obj)}"'

    def edge(self, a: Any, b: Any) -> str:
        return f'    "{self.label(a)}" -> "{self.label(b)}"'
