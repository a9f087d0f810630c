"""The one place for the rules of any text up to a first mark, in GBNF. Pure."""

from runtimes.llama.grammars.json_schema import quoted


def add_up_to(rules: dict[str, str], prefix: str, mark: str, then: str = "") -> str:
    """Add rules for any text whose end is its first `mark`, and for `then` behind it; return the
    first one's name, `prefix` and 0. The others, counted on, are for when so many letters of the
    mark have come. The first letter of `mark` must stand in it once.
    """
    assert mark[0] not in mark[1:]
    first = quoted(mark[0])
    for at, letter in enumerate(mark):
        following = f"{prefix}{at + 1}" if at + 1 < len(mark) else then
        # After another letter than that it begins anew.
        anew = f"| {first} {prefix}1" if at > 0 else ""
        others = letters_but(mark[0] + letter)
        rules[f"{prefix}{at}"] = f"{quoted(letter)} {following} {anew} | {others} {prefix}0"
    return f"{prefix}0"


def letters_but(letters: str) -> str:
    """Any letter that is none of these."""
    codes = (f"\\U{ord(letter):08X}" for letter in sorted(set(letters)))
    return f"[^{''.join(codes)}]"
