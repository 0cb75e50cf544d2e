"""The engine 'openvino': sampling on the CPU with OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gankit.plugins.exporters.openvino_file import EXACT, HALF, to_openvino
from gankit.plugins.exporters.packages import missing
from gankit.sampling.engine import Engine
from gankit.sampling.graphs import export_program


class OpenVINO(Engine):
    """OpenVINO on the CPU; one set-up of seconds for all batch sizes."""

    dtypes = ("fp32", "bf16")
    casts = True  # OpenVINO chooses the bfloat16 operations of a float32 graph

    def obstacle(self, device: torch.device) -> str | None:
        if device.type != "cpu":
            return f"the openvino engine draws on a CPU, not on {device.type}; add --device cpu"
        return missing("openvino", "openvino")

    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        import openvino

        two = {name: torch.cat([tensor, tensor])[:2] for name, tensor in inputs.items()}
        program = export_program(module, two)
        names = program.graph_signature.user_inputs
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        precision = EXACT if self.dtype == "fp32" else HALF
        model = openvino.Core().compile_model(to_openvino(program), "CPU", {**precision, **threads})
        return lambda inputs: torch.from_numpy(
            model({name: inputs[name].contiguous().numpy() for name in names}, share_inputs=True)[
                "images"
            ].copy()
        )
