from .api import advise as advise
from .api import analyze as analyze
from .api import compare as compare
from .api import count as count
from .api import evaluate as evaluate
from .api import evaluate_folder as evaluate_folder
from .api import film as film
from .api import fit as fit
from .api import load as load
from .api import match as match
from .api import plan as plan
from .api import plate as plate
from .api import predict as predict
from .api import predict_files as predict_files
from .api import prepare as prepare
from .api import probabilities as probabilities
from .api import report as report
from .api import run_study as run_study
from .api import simulate as simulate
from .api import table as table
from .api import train as train
from .data.dataset import Dataset as Dataset
from .errors import SegueError as SegueError
from .errors import SegueWarning as SegueWarning
from .evaluation.tools import ToolsSpec as ToolsSpec
from .plates.counting.count import CountOptions as CountOptions

__version__: str
