"""Makes ``python -m ops`` the same as ``goodsyard``."""

from ops.cli import app

app(prog_name="goodsyard")
