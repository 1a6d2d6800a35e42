"""Readers of data: the only package that knows where data lies and in what form."""

from hcdc_jax.data.arrays import ArrayData as ArrayData
from hcdc_jax.data.arrays import array_data as array_data
from hcdc_jax.data.graphs import GraphData as GraphData
from hcdc_jax.data.graphs import summary as summary
from hcdc_jax.data.image_streams import ImageStream as ImageStream
from hcdc_jax.data.image_streams import read_image_stream as read_image_stream
from hcdc_jax.data.images import ImageData as ImageData
from hcdc_jax.data.images import subset as subset
from hcdc_jax.data.nas_bench_201 import published_accuracies as published_accuracies
from hcdc_jax.data.objects import from_object as from_object
from hcdc_jax.data.objects import save_dataset as save_dataset
from hcdc_jax.data.registry import datasets as datasets
from hcdc_jax.data.registry import load_dataset as load_dataset
from hcdc_jax.data.registry import read_dataset as read_dataset
from hcdc_jax.data.tables import TableData as TableData
from hcdc_jax.data.tables import read_table as read_table
