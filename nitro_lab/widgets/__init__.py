"""Controls for the notebooks, which only wire sliders and buttons to functions of the other rooms."""
