"""Class names of the data sets that the published models are trained on, in the order of their class ids."""

GEN1 = ("car", "pedestrian")
ONE_MPX = ("pedestrian", "two-wheeler", "car")
_NAMES = """
    scorpion brontosaurus ant emu ceiling_fan hedgehog flamingo euphonium crocodile Motorbikes okapi Faces_easy
    chandelier ibis water_lilly anchor cannon butterfly beaver helicopter grand_piano brain kangaroo flamingo_head
    stegosaurus llama umbrella strawberry cup gerenuk cellphone panda binocular car_side soccer_ball joshua_tree
    sea_horse snoopy dalmatian schooner pigeon mandolin laptop saxophone hawksbill sunflower pyramid camera
    cougar_body ketch revolver lobster bonsai dollar_bill rooster minaret elephant mayfly Leopards headphone
    windsor_chair dolphin platypus pizza octopus watch lamp accordion yin_yang electric_guitar inline_skate
    wheelchair scissors tick menorah airplanes wild_cat garfield dragonfly rhino wrench stop_sign bass ewer chair
    pagoda crayfish starfish cougar_face lotus metronome ferry buddha barrel gramophone crab stapler
    crocodile_head nautilus trilobite
"""
NCALTECH101 = tuple(_NAMES.split())
