"""Where clips come from: folders, tables, tars, with what is known about each."""
