from torch import nn

class EfficientNet(nn.Module):
    @classmethod
    def from_name(cls, model_name: str) -> EfficientNet: ...
