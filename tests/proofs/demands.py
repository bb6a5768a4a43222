"""What a siege must come to: a floor or a ceiling for each number of its table, and the table.

The numbers of 30 minutes are those that were asked for; a longer siege must reach them, too. A shorter one must reach its share
of them, less some: its faults are few, and some are not felt.
"""

import math
from dataclasses import dataclass

WHOLE_MINUTES = 30
ACKED = 5_000_000
SHORT = 0.5  # what a short siege must reach of its share, and of the ids that its rate would make
FLOORS = {  # in 30 minutes
    "faults that were felt": 200, "SIGKILL in all": 60, "SIGKILL, aimed": 30, "SIGSTOP": 20, "rolling restart": 5, "network cut": 20,
    "reset": 10, "upload reset": 3, "broker SIGKILL": 10, "restarts that changed the layout": 1, "of one destination alone": 10,
    "aimed: before the receipt": 10, "lives that began on an open plan": 30}
NEVER_LESS = {"SIGSTOP": 1, "rolling restart": 1, "network cut": 1, "reset": 1, "broker SIGKILL": 1, "restarts that changed the layout": 1,
              "of one destination alone": 1, "lives that began on an open plan": 1}  # however short
CEILINGS = {"ended by themselves, excused": 20, "left with open batches in a fault": 12}  # in 30 minutes
CEILINGS_SHORT = 3  # and so many more, since a short one has no share of a few
WRONG = ("duplicated", "lost", "aborted seen", "altered", "misplaced")
PIECE_BYTES = 5 << 20


@dataclass
class Row:
    """A number, and what it may be."""

    name: str
    value: object
    least: int | None = None
    most: int | None = None

    def holds(self):
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def __str__(self):
        value = f"{self.value:,}" if isinstance(self.value, int) else str(self.value)
        bounds = [f">= {self.least:,}"] if self.least is not None else []
        bounds += [f"<= {self.most:,}"] if self.most is not None else []
        return f"{self.name}  {'  '.join([value, *bounds])}{'' if self.holds() else '  FAILED'}"


class Demands:
    def __init__(self, minutes, rate):
        self.minutes, self.rate = minutes, rate

    def floor(self, name):
        """None where nothing is asked."""
        if name not in FLOORS:
            return None
        if self.minutes >= WHOLE_MINUTES:
            return FLOORS[name]
        return max(NEVER_LESS.get(name, 0), math.floor(FLOORS[name] * self.minutes / WHOLE_MINUTES * SHORT)) or None

    def ceiling(self, name):
        share = max(1.0, self.minutes / WHOLE_MINUTES) if self.minutes >= WHOLE_MINUTES else self.minutes / WHOLE_MINUTES
        return math.ceil(CEILINGS[name] * share) + (CEILINGS_SHORT if share < 1 else 0)

    def acked(self):
        return ACKED if self.minutes >= WHOLE_MINUTES else math.floor(self.rate * self.minutes * 60 * SHORT)

    def counted(self, name, value, label=None):
        return Row(label or name, value, least=self.floor(name))

    def bounded(self, name, value):
        return Row(name, value, most=self.ceiling(name))

    def of_ids(self, ids):
        return [
            Row("ids produced", sum(ids.values())), Row("ids acked, so once in each output", ids["acked"], least=self.acked()),
            Row("ids aborted, so nowhere", ids["aborted"], least=1), Row("ids aborted before they were sent", ids["unsent"]),
            Row("ids of unknown outcome: in Kafka", ids["unknown, in Kafka"]),
            Row("ids of unknown outcome: not in it", ids["unknown, not in it"]),
            Row("ids replaced, still in Kafka", ids["replaced, in Kafka"]),
            Row("ids replaced, removed by Kafka", ids["replaced, removed"], least=1)]

    @staticmethod
    def of_output(name, found):
        rows = [Row("objects", found["objects"], least=1), Row("archived", found["archived"], least=1)]
        rows += [Row(f"archived of {kind}", count, least=1) for kind, count in found["kinds"].items()]
        rows += [Row(what, found[what], most=0) for what in WRONG]
        rows += [Row("removed by Kafka before", found["removed before"])]
        rows += [Row(f"objects, {layout}", count, least=1) for layout, count in found["layouts"].items()]
        rows += [Row("largest object, bytes", found["largest"], least=PIECE_BYTES + 1 if name == "json" else None)]
        return [Row(f"{name}: {row.name}", row.value, row.least, row.most) for row in rows]


def table(rows):
    return "\n".join(map(str, rows))


def broken(rows):
    """A sentence for each number that is not what it must be."""
    return [f"{row.name.strip()} is {row.value}, which must be "
            f"{f'at least {row.least}' if row.least is not None and row.value < row.least else f'at most {row.most}'}"
            for row in rows if not row.holds()]
