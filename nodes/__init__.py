"""The nodes an artist sees; each is a schema and a thin call into `bivdiff_core`."""

from .blend import MixedInversion
from .bridging import BridgeGuider
from .compare import CompareVideos
from .demo_models import DemoClip, DemoModels
from .frames import AverageAlongMotion, EncodeFrames, FrameChunks, FrameNoise, SelectFrames
from .inversion import InvertedNoise, InvertImage, InvertVideo
from .latent_files import LoadLatent, SaveLatent
from .prompt2prompt import Prompt2Prompt
from .reports import LatentReport, TemporalReport
from .sampling import FrameSampler, TemporalSmoother
from .sweep import ModeList, RatioList, SolverList, SweepGrid
from .video_model import VideoModelLoader

NODES = [
    FrameSampler,
    InvertImage,
    InvertVideo,
    MixedInversion,
    TemporalSmoother,
    InvertedNoise,
    FrameNoise,
    FrameChunks,
    SelectFrames,
    EncodeFrames,
    Prompt2Prompt,
    VideoModelLoader,
    DemoModels,
    BridgeGuider,
    CompareVideos,
    LatentReport,
    TemporalReport,
    RatioList,
    SweepGrid,
    ModeList,
    SolverList,
    SaveLatent,
    LoadLatent,
    AverageAlongMotion,
    DemoClip,
]
