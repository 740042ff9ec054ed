-- Writes everything to the data files now, so that the checkpoint at the stop has little left to do.
CHECKPOINT
