"""Labels that networks give: of the best full trainings for S_train, of observers for condensed images."""
