"""A subject's answers in another label set's classes, by name: an Occ3D model that gives flow, scored on OpenOcc."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from occ_perception.data.nuscenes import NuScenes
from occ_perception.data.nuscenes_records import Scene
from occ_perception.errors import ConfigurationError
from occ_perception.evaluation.answers import Answer, Subject
from occ_perception.ontology import Ontology


class MappedSubject:
    """Classes without a namesake (Occ3D's "others") become UNKNOWN, which class metrics count as free.

    Args:
        subject: whose answers.
        ontology: in whose classes.

    Raises:
        ConfigurationError: the label sets have next to nothing in common, so figures would mean nothing.
    """

    def __init__(self, subject: Subject, ontology: Ontology) -> None:
        lost = [name for name in subject.ontology.class_names if name not in ontology.class_names]
        if len(lost) > 1 or not set(ontology.class_names) <= set(subject.ontology.class_names):
            raise ConfigurationError(
                f"{subject.name}: classes of {subject.ontology.name} cannot be read as {ontology.name}; "
                f"without a namesake: {lost}"
            )
        self._subject, self._table = subject, subject.ontology.map_to(ontology)
        self.name, self.ontology, self.grid = subject.name, ontology, subject.grid
        self.frame, self.grid_frame = subject.frame, subject.grid_frame
        self.identity = {**subject.identity, "classes": f"{subject.ontology.name} read as {ontology.name} by name"}

    def check(self, scene: Scene, tokens: Sequence[str]) -> None:
        """As the subject does."""
        self._subject.check(scene, tokens)

    def files(self, scene: Scene) -> list[Path]:
        """As the subject does."""
        return self._subject.files(scene)

    def answers(self, dataset: NuScenes, scene: Scene, tokens: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """The subject's answers, classes mapped."""
        for token, answer in self._subject.answers(dataset, scene, tokens):
            yield token, replace(answer, semantics=self._table[answer.semantics])
