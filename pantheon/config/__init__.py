"""What a YAML file may say, checked when it is read, with the line at fault."""

from pantheon.config.file import load as load
from pantheon.config.loop import EmaConfig as EmaConfig
from pantheon.config.loop import LoopConfig as LoopConfig
from pantheon.config.loop import OptimizerConfig as OptimizerConfig
from pantheon.config.losses import LOSSES as LOSSES
from pantheon.config.losses import LossConfig as LossConfig
from pantheon.config.losses import RampConfig as RampConfig
from pantheon.config.section import Arguments as Arguments
from pantheon.config.section import Reference as Reference
from pantheon.config.section import Section as Section
from pantheon.config.security import SecurityConfig as SecurityConfig
from pantheon.config.security import TlsConfig as TlsConfig
from pantheon.config.student import CheckpointConfig as CheckpointConfig
from pantheon.config.student import LearningConfig as LearningConfig
from pantheon.config.student import SourceConfig as SourceConfig
from pantheon.config.student import StreamConfig as StreamConfig
from pantheon.config.student import StudentConfig as StudentConfig
from pantheon.config.teacher import ModelConfig as ModelConfig
from pantheon.config.teacher import TeacherConfig as TeacherConfig
