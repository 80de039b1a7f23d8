"""Vehicles that can be generated: rendered pictures with known identities, attributes, captions and part masks."""

from pfcvr.pipeline.synth.attributes import VehicleAttributes
from pfcvr.pipeline.synth.render import Rendered, View, render
from pfcvr.pipeline.synth.tree import SynthSummary, generate

__all__ = ["Rendered", "SynthSummary", "VehicleAttributes", "View", "generate", "render"]
