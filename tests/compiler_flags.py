"""Flags for a compiler in a hurry: test programs are tiny, and what XLA spends on making them fast is lost."""

from importlib.metadata import version

AS_SHIPPED: dict[str, bool] = {}
"""`compiler_options` for programs in which rounding decides something: pixels on the very edge of a triangle."""
HURRY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# An unknown flag would end the process, so it is set only where it is known. It spares a third of some compilations.
if version("jaxlib").startswith("0.10."):
  HURRY += " --xla_cpu_use_fusion_emitters=false"
  AS_SHIPPED = {"xla_cpu_use_fusion_emitters": True}
