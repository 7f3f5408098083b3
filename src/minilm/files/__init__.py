"""Every byte from and to disk: checked on the way in, whole or absent on the way out."""
