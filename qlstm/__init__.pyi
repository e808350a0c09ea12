"""The public names as type checkers see them, as ``__init__.py`` imports each on its first use."""

from qlstm.data.catalogue import load_dataset as load_dataset
from qlstm.data.files import DataError as DataError
from qlstm.errors import ConfigError as ConfigError
from qlstm.errors import MissingError as MissingError
from qlstm.export import export_c as export_c
from qlstm.gru import QuantGRU as QuantGRU
from qlstm.lstm import QuantLSTM as QuantLSTM
from qlstm.models import LanguageModel as LanguageModel
from qlstm.models import SequenceClassifier as SequenceClassifier
from qlstm.packing import PackedError as PackedError
from qlstm.packing import load_packed as load_packed
from qlstm.packing import packed_bytes as packed_bytes
from qlstm.packing import save_packed as save_packed
from qlstm.quantizers import Quantized as Quantized
from qlstm.quantizers import straight_through as straight_through
from qlstm.study.config import ExperimentConfig as ExperimentConfig
from qlstm.study.grid import grid as grid
from qlstm.study.networks import load_model as load_model
from qlstm.study.records import RecordError as RecordError
from qlstm.study.sizes import round_half_up as round_half_up
from qlstm.study.sizes import size_kb as size_kb
from qlstm.study.training import run as run

__version__: str
