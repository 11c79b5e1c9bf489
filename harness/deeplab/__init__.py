"""The verification network, DeepLabV2, and the only door to mmsegmentation, mmengine and mmcv.

`recipe` says how it is trained, and imports nothing heavy. What imports the mm-packages gets them from `mm`.
"""
