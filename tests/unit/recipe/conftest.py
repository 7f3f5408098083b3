"""The smallest recipe of a distillation."""

RECIPE = """\
kind: distill
name: small
out: runs/small
data:
  inputs: [a.txt]
teacher:
  model: embedded
students:
  - preset: L6-H384
train:
  steps: 10
  batch_size: 4
  learning_rate: 1e-4
"""
