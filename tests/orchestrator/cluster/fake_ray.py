"""Ray without processes: each task is answered by the test, or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ray

HANGS = object()
"""Answer of a task that is never done."""


@dataclass(eq=False)
class Task:
    """A task that was submitted: its function's name, its options and its arguments."""

    name: str
    options: dict[str, Any]
    arguments: tuple[Any, ...]
    answer: Any = None


class FakeRay:
    """Stands for the module ``ray``.

    Args:
        answer: task -> its result, an error that reading it raises, or :data:`HANGS`.
    """

    exceptions = ray.exceptions

    def __init__(self, answer: Callable[[Task], Any]) -> None:
        self._answer = answer
        self.tasks: list[Task] = []
        self.cancelled: list[Task] = []
        self.most_at_once = 0

    def remote(self, function: Callable[..., Any]) -> Any:
        def submit(options: dict[str, Any], arguments: tuple[Any, ...]) -> Task:
            task = Task(function.__name__, options, arguments)
            task.answer = self._answer(task)
            self.tasks.append(task)
            return task

        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *given: submit(options, given))
        )

    def put(self, value: Any) -> Any:
        return value

    def wait(self, tasks: Sequence[Task], timeout: float | None = None) -> tuple[list[Task], list[Task]]:
        self.most_at_once = max(self.most_at_once, len(tasks))
        done = [task for task in tasks if task.answer is not HANGS][:1]
        return done, [task for task in tasks if task not in done]

    def get(self, task: Task) -> Any:
        if isinstance(task.answer, Exception):
            raise task.answer
        return task.answer

    def cancel(self, task: Task, force: bool) -> None:
        assert force  # a task that hangs in a system call heeds no interrupt
        self.cancelled.append(task)


def listed(node_id: str, cpus: float = 4.0, **more: Any) -> dict[str, Any]:
    """A node as `ray.nodes` lists it."""
    resources = {"CPU": cpus} | more.pop("resources", {})
    return {
        "NodeID": node_id, "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "host", "Alive": True,
        "Resources": resources,
    } | more  # fmt: skip
