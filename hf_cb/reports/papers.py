"""The papers that cards and figures name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper; as a string, its citation.

    Args:
        authors: as a citation names them.
        venue: where and when it was published.
        arxiv: its number there.
    """

    authors: str
    venue: str
    arxiv: str

    def __str__(self) -> str:
        return f"{self.authors}, {self.venue}, arXiv:{self.arxiv}"

    @property
    def link(self) -> str:
        """In Markdown."""
        return f"[arXiv {self.arxiv}](https://arxiv.org/abs/{self.arxiv})"


CB_PAPER = Paper("Hyeon-Woo et al.", "ICCV 2023", "2210.08457")
SCALE_PAPER = Paper("Wang et al.", "ICLR 2022", "2203.05962")
SPECTRUM_PAPER = Paper("Park and Kim", "ICLR 2022", "2202.06709")
VIT_PAPER = Paper("Dosovitskiy et al.", "ICLR 2021", "2010.11929")
