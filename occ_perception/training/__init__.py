"""What training needs: targets from labels and LiDAR, augmentation, losses, denoising, schedules."""
