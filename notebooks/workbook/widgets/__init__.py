"""Controls for the notebooks, which only connect sliders and buttons to functions of other packages."""
