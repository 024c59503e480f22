"""ZIP archives: arrays of numpy, and folders of Phy and Kilosort."""
