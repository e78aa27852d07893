"""Names of any script in pictures: fonts that have their characters, or something else to call them by."""

import unicodedata
from collections.abc import Iterable, Sequence

from matplotlib import font_manager, ft2font, rcParams


# of the usual systems, one after the other; any other font that has the characters comes after these
PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Hiragino Sans",
    "Yu Gothic",
    "MS Gothic",
    "IPAexGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "NanumGothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Noto Sans",
    "Nirmala UI",
    "Leelawadee UI",
    "Segoe UI",
    "FreeSans",
    "Arial Unicode MS",
    "Unifont",
)
# these claim to have every character and show boxes, or are bitmaps in colour, which matplotlib cannot draw
NO_FONTS = ("last resort", "lastresort", "adobe blank", "color emoji")

# joins letters and puts marks where they belong; without it Arabic falls apart and Devanagari is in disorder
CAN_SHAPE = hasattr(ft2font, "__libraqm_version__")


def families_for(text: str) -> list[str] | None:
    """Font families that together have every character of a text, the usual ones first; None where there are none.

    Args:
        text: in any script.
    """
    families, missing = list(rcParams["font.family"]), beyond_usual_fonts(text)
    for name, file in _installed() if missing else ():
        if not missing:
            break
        left = _left_by(file, missing)
        if left != missing:
            families.append(name)
            missing = left
    return None if missing else families


def beyond_usual_fonts(text: str) -> set[str]:
    """The characters of a text that the fonts in use lack."""
    missing = {character for character in text if not character.isspace()}
    for name in rcParams["font.family"]:
        missing = _left_by(font_manager.findfont(font_manager.FontProperties(family=[name])), missing)
    return missing


def _installed() -> list[tuple[str, str]]:
    """Name and file of every font, those of `PREFERRED` in front."""
    order = {name: place for place, name in enumerate(PREFERRED)}
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if not any(name in entry.name.lower() for name in NO_FONTS)
    }
    return sorted(fonts.items(), key=lambda font: (order.get(font[0], len(order)), font[0]))


def _left_by(file: str, characters: set[str]) -> set[str]:
    try:
        return characters - set(map(chr, font_manager.get_font(file).get_charmap()))
    except (OSError, RuntimeError):
        # removed since matplotlib made its list, or of a kind that it cannot read
        return characters


def is_readable(text: str) -> bool:
    """Whether a picture can show a text: fonts have its characters, and its script needs no more than they know."""
    composed = unicodedata.normalize("NFC", text)
    return (
        bool(composed.strip())
        and composed.isprintable()
        and (CAN_SHAPE or not _needs_shaping(composed))
        and families_for(composed) is not None
    )


def _needs_shaping(text: str) -> bool:
    """Whether letters join, stand from right to left, or bear marks that fonts place."""
    return any(
        unicodedata.bidirectional(character) in ("R", "AL", "AN") or unicodedata.category(character) in ("Mn", "Mc")
        for character in text
    )


def shown_names(names: Sequence[str], stand_ins: Iterable[str], longest: int = 40) -> list[str]:
    """What pictures call things: their names, shortened in the middle, or what stands for all of them.

    Args:
        names: of what is shown.
        stand_ins: one for each, taken where a name cannot be read in a picture or two would be alike.
        longest: characters of a name.
    """
    shown = [shortened(unicodedata.normalize("NFC", str(name)), longest) for name in names]
    if len(set(shown)) < len(shown) or not all(map(is_readable, shown)):
        return list(stand_ins)
    return shown


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters, with dots in its middle where there were more."""
    if len(name) <= longest:
        return name
    head = (longest - 3) // 2
    return f"{name[:head]}...{name[head + 3 - longest :]}"
