"""Drop-in modules: the losses of other packages, by their names, over the kernels of this one.

>>> from segloss_fast.compat.monai import DiceCELoss  # instead of: from monai.losses import ...
>>> loss = DiceCELoss(to_onehot_y=True, softmax=True)

Each has its peer's constructor, defaults, attributes, accepted inputs, output shapes, warnings and
exceptions, and gives the same numbers as one version of it: :mod:`segloss_fast.compat.monai` as
MONAI 1.6.1, :mod:`segloss_fast.compat.smp` as segmentation-models-pytorch 0.6.0,
:mod:`segloss_fast.compat.kornia` as kornia 0.9.0, :mod:`segloss_fast.compat.nnunet` as nnU-Net
2.8.1. None of them needs its peer to be installed.
"""
