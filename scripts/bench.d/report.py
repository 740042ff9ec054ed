"""The table: one row a contender, with its ratio against the right peer and whether the target is met."""

import dataclasses
import json
import statistics


@dataclasses.dataclass
class Row:
    """Samples of one contender; `limit` bounds the ratio against a peer, the difference to it, or the value itself."""

    group: str
    name: str
    unit: str
    samples: list
    against: str = None
    peer: list = None
    limit: float = None
    difference: bool = False

    def compared(self):
        """What is held against the limit; none where there is nothing to compare with.

        Samples of the same turn are compared with each other and the median is taken, so that a moment in which the
        machine was busy counts for both or for none.
        """
        if self.against is None:
            return max(self.samples) if self.limit is not None else None
        if not self.peer:
            return None
        pairs = list(zip(self.samples, self.peer))
        if self.difference:
            return statistics.median(ours - theirs for ours, theirs in pairs)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def met(self):
        """True, false, or none where there is no target or nothing to compare with."""
        value = self.compared()
        return None if value is None or self.limit is None else value <= self.limit

    def target(self):
        """The target in words."""
        if self.limit is None:
            return ""
        if self.against is None:
            return f"<= {self.limit:g}"
        return f"+{self.limit:g} ms" if self.difference else f"<= {self.limit:g} x"

    def verdict(self):
        """Met or not, in words."""
        if self.limit is None:
            return ""
        return {True: "met", False: "MISSED", None: "no peer"}[self.met()]

    def cells(self):
        """The row as text."""
        value = self.compared()
        ratio = "" if value is None or self.against is None else f"{value:+.2f} ms" if self.difference else f"{value:.2f} x"
        numbers = [f"{number:.2f}" for number in (min(self.samples), statistics.median(self.samples), max(self.samples))]
        return [self.group, self.name, self.unit, *numbers, ratio, self.against or "", self.target(), self.verdict()]

    def plain(self):
        """The row for JSON."""
        return {
            "group": self.group, "contender": self.name, "unit": self.unit, "samples": self.samples,
            "min": min(self.samples), "median": statistics.median(self.samples), "max": max(self.samples),
            "against": self.against, "kind": "difference" if self.difference else "ratio" if self.against else "value",
            "compared": self.compared(), "limit": self.limit, "met": self.met(),
        }


HEAD = ["what", "contender", "unit", "min", "median", "max", "ratio", "against", "target", ""]


def table(rows, facts):
    """The table for people; the last line says how many targets are met."""
    lines = [HEAD] + [row.cells() for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    numeric = range(3, 7)
    text = [f"{key}: {value}" for key, value in facts.items()] + [""]
    for line in lines:
        cells = [cell.rjust(width) if column in numeric else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(line, widths))]
        text.append("  ".join(cells).rstrip())
    text += ["", summary(rows)]
    return "\n".join(text)


def summary(rows):
    """How many targets are met."""
    verdicts = [row.met() for row in rows if row.limit is not None]
    text = f"{verdicts.count(True)} of {len(verdicts)} targets are met"
    return f"{text}; {verdicts.count(None)} had no peer to compare with" if None in verdicts else text


def as_json(rows, facts):
    """The same for programs."""
    verdicts = [row.met() for row in rows if row.limit is not None]
    return json.dumps({"machine": facts, "rows": [row.plain() for row in rows],
                       "targets": len(verdicts), "met": verdicts.count(True)}, indent=2)
