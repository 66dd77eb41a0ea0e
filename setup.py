"""The C extension; everything else about the package is in pyproject.toml.

Without a compiler the installation succeeds and augmix_core runs on Pillow, which it says when it is used.
"""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = "augmix_core/native"

setup(
    ext_modules=[
        Extension(
            "_augmix_native",  # a name of its own: it must be found when augmix_core comes from somewhere else
            sources=sorted(path.as_posix() for path in Path(NATIVE).glob("*.c")),
            depends=sorted(path.as_posix() for path in Path(NATIVE).glob("*.h")),
            # contraction would let some compilers fuse a * b + c, and pixels would differ from Pillow's
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"],
            libraries=["m"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
