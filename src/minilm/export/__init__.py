"""Models in other forms: int8, which is written only if the gate finds it as good as fp32."""
