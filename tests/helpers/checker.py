"""The type checker of the tests. `tests/conftest.py` applies it to the modules of the package."""

from beartype import BeartypeConf, beartype

# By PEP 484 an int is a float too.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
