"""Photographs of a herd, to split and to judge."""

import pandas as pd


def herd_of_photographs(n_horses: int, n_each: int, classes: list[str]) -> pd.DataFrame:
    """Rows of one photograph each; the classes take turns, and each horse has two sessions."""
    rows = []
    for h in range(n_horses):
        for i in range(n_each):
            rows.append({
                "photo_id": f"{h:02d}-{i:03d}", "path": f"h{h:02d}/{i}.jpg",
                "horse": f"h{h:02d}", "label": classes[i % len(classes)],
                "session": f"h{h:02d}_s{i * 2 // n_each}", "video": None,
            })  # fmt: skip
    return pd.DataFrame(rows)
