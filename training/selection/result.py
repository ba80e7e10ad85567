"""What selection chose: training length, head, calibration, scaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.calibration import Calibration
from training.features.scaler import SCALINGS, Scaling
from training.method.heads import LDA, HeadChoice


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen on validation, or on the test rows under `test-best`.

    Attributes:
        epochs: training length.
        head: shrinkage and scale of the served head.
        calibration: of its scores: seen penalty and temperature.
        student: calibration of the student's own classifier C_s.
        scaling: of the features.
        validation: pseudo-H of what was chosen (`H`, `H_student`), and of every candidate, for reports.
    """

    epochs: int
    head: HeadChoice
    calibration: Calibration
    student: Calibration
    scaling: Scaling = "range"
    validation: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As `config.json` holds it."""
        return {
            "epochs": self.epochs,
            "scaling": self.scaling,
            "head": {
                "kind": LDA,
                "shrinkage": self.head.shrinkage,
                "unseen_scale": self.head.unseen_scale,
                **self.calibration.to_json(),
            },
            "student": self.student.to_json(),
            "validation": self.validation,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Selection:
        """Read the JSON of :meth:`to_json`.

        Raises:
            KeyError, TypeError or ValueError: it has another form.
        """
        head, scaling = fields["head"], fields["scaling"]
        if scaling not in SCALINGS:
            raise ValueError(f"expected a scaling, {' or '.join(SCALINGS)}, got {scaling!r}")
        if head["kind"] != LDA:
            raise ValueError(f"expected the head {LDA}, got {head['kind']!r}")
        return cls(
            epochs=int(fields["epochs"]),
            head=HeadChoice(shrinkage=float(head["shrinkage"]), unseen_scale=float(head["unseen_scale"])),
            calibration=Calibration.from_json(head),
            student=Calibration.from_json(fields["student"]),
            scaling=scaling,
            validation=fields["validation"],
        )
