"""Self-attention over a pack: one Protocol, a pattern of who sees whom, and kernels for every device."""

from hh_train.model.attention.choice import AttentionChoice, AttentionName, attention_backend
from hh_train.model.attention.flex import FlexAttention
from hh_train.model.attention.packed import FlashAttention, VarlenAttention
from hh_train.model.attention.pattern import AttentionBackend, AttentionPattern, attention_pattern
from hh_train.model.attention.per_clip import PerClipAttention
from hh_train.model.attention.written_out import written_out_attention

__all__ = [
    "AttentionBackend",
    "AttentionChoice",
    "AttentionName",
    "AttentionPattern",
    "FlashAttention",
    "FlexAttention",
    "PerClipAttention",
    "VarlenAttention",
    "attention_backend",
    "attention_pattern",
    "written_out_attention",
]
