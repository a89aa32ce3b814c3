"""`python -m shapegan_jax.tools`, the same as `shapegan`."""

from shapegan_jax.tools.cli import main

if __name__ == "__main__":
  main()
