"""What validation chose: the training length, the best head of each form, and which form is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.calibration import Calibration
from model.errors import DataError
from model.head import HeadKind
from training.features.scaler import SCALINGS, Scaling
from training.method.heads import HeadChoice

KINDS: tuple[HeadKind, ...] = ("lda", "softmax")


@dataclass(frozen=True, kw_only=True)
class ChosenHead:
    """The best head of one form at the chosen length.

    Attributes:
        choice: form and strength.
        calibration: of its scores.
        H: on validation.
    """

    choice: HeadChoice
    calibration: Calibration
    H: float


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What validation chose.

    Attributes:
        epochs: training length.
        kind: form of the served head.
        heads: the best head of each form that was measured, `lda` always.
        student: calibration of the student's own classifier C_s.
        scaling: of the features.
        validation: pseudo-H of the chosen candidates, and of every candidate, for reports.
    """

    epochs: int
    kind: HeadKind
    heads: Mapping[HeadKind, ChosenHead]
    student: Calibration
    scaling: Scaling = "range"
    validation: dict[str, Any]

    @property
    def served(self) -> ChosenHead:
        """The head that is served."""
        return self.heads[self.kind]

    @property
    def head(self) -> Calibration:
        """Calibration of the served head."""
        return self.served.calibration

    @property
    def shrinkage(self) -> float:
        """Of the best `lda` head, served or not."""
        return self.heads["lda"].choice.strength

    def serving(self, kind: str) -> Selected:
        """The same with another form of the head.

        Raises:
            DataError: that form was not measured.
        """
        for measured in self.heads:
            if measured == kind:
                return replace(self, kind=measured)
        raise DataError(
            f"--head: expected {' or '.join(self.heads)}, which validation measured, got {kind!r}; selection.heads "
            "names what a training measures"
        )

    def to_json(self) -> dict[str, Any]:
        """As `config.json` holds it; `shrinkage` and `head` as before there was a second form."""
        return {
            "epochs": self.epochs,
            "scaling": self.scaling,
            "kind": self.kind,
            "shrinkage": self.shrinkage,
            "head": self.head.to_json(),
            "heads": {
                kind: {
                    "strength": best.choice.strength,
                    "unseen_scale": best.choice.unseen_scale,
                    "H": best.H,
                    **best.calibration.to_json(),
                }
                for kind, best in self.heads.items()
            },
            "student": self.student.to_json(),
            "validation": self.validation,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Selected:
        """Read the JSON of :meth:`to_json`, or of runs that knew `lda` only.

        Raises:
            KeyError, TypeError or ValueError: it has another form.
        """
        validation = fields["validation"]
        alone = {"lda": {"strength": fields["shrinkage"], "H": validation["H"], **fields["head"]}}
        heads: dict[HeadKind, ChosenHead] = {
            kind: ChosenHead(
                choice=HeadChoice(
                    kind=kind, strength=float(found["strength"]), unseen_scale=float(found.get("unseen_scale", 1))
                ),
                calibration=Calibration.from_json(found),
                H=float(found["H"]),
            )
            for kind, found in fields.get("heads", alone).items()
        }
        kind = fields.get("kind", "lda")
        if fields.get("scaling", "range") not in SCALINGS:
            raise ValueError(f"expected a scaling, {' or '.join(SCALINGS)}, got {fields['scaling']!r}")
        if kind not in heads or "lda" not in heads or not heads.keys() <= set(KINDS):
            raise ValueError(f"expected the heads {' and '.join(KINDS)}, and among them the served one, {kind!r}")
        return cls(
            epochs=int(fields["epochs"]),
            kind=kind,
            heads=heads,
            student=Calibration.from_json(fields["student"]),
            scaling=fields.get("scaling", "range"),
            validation=validation,
        )
