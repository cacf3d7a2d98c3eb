"""Structured mean-field: which sites share a block of q.

    q(z) = prod_b q_b(z_b)

Within a block all dependence is kept (a joint Gaussian with the sparsity of the model), between blocks none is.

Reference: Saul and Jordan (1996), Exploiting tractable substructures in intractable networks, NeurIPS 8.
"""

from jensen.core.errors import OptionError


class Blocks:
    """Sites that share a block; every site that is not named is a block of its own.

    Parameters
    ----------
    *groups
        Each a tuple of site names. ``Blocks()`` is mean-field between sites; ``Blocks(("mu", "a"), ("b", "c"))`` joins two pairs.

    Raises
    ------
    OptionError
        When a group is no sequence of names, or a site is named twice.
    """

    __slots__ = ("groups",)

    def __init__(self, *groups: tuple[str, ...]):
        seen: set[str] = set()
        for group in groups:
            if isinstance(group, str) or not all(isinstance(name, str) for name in group):
                raise OptionError(
                    f"Blocks takes tuples of site names; got {group!r}; write Blocks(('mu', 'a'), ('b', 'c'))."
                )
            twice = seen & set(group)
            if twice or len(set(group)) < len(group):
                raise OptionError(f"Blocks names {sorted(twice or group)[0]} twice; a site is in one block.")
            seen |= set(group)
        self.groups = tuple(tuple(group) for group in groups)

    def __repr__(self) -> str:
        return f"Blocks({', '.join(map(repr, self.groups))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocks) and self.groups == other.groups

    def __hash__(self) -> int:
        return hash(self.groups)
