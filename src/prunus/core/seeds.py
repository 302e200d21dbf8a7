"""Random numbers from named generators, all made from one seed.

A generator is named by what it is for (`"initialisation"`, `"data order"`, `"masks"`, …) and by where it is
used (trial, round, epoch, …). Names are hashed with the seed, so no stream depends on how many numbers another has
drawn: "the same ticket with a new data order" is a change of one name, and work that was interrupted goes on
with the numbers it would have had.
"""

import hashlib

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream `names` of `seed`; different names give independent streams."""
    parts = (str(name).replace("\\", "\\\\").replace("/", "\\/") for name in (int(seed), *names))
    digest = hashlib.blake2b("/".join(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for the stream `names` of `seed`."""
    return torch.Generator(device).manual_seed(derive(seed, *names))
