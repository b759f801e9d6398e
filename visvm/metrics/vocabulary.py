"""The words by which CHAIR recognises COCO's 80 categories (Rohrbach et al. 2018).

The table is part of the metric's definition, so its misspellings ("solider", "phon", "televison")
stay. "motor bike" and "cheesecake", the other two of its 403 words, are left out on purpose: a stray
space in the authors' file keeps them from ever matching, in all published figures too.
"""

from __future__ import annotations

from typing import Literal

Variant = Literal["original", "wordnet"]
"""How CHAIR finds objects in a caption; see ``visvm.metrics.chair``."""

WORDS: dict[str, str] = {
    "person": (
        "girl, boy, man, woman, kid, child, chef, baker, people, adult, rider, children, baby, worker, "
        "passenger, sister, biker, policeman, cop, officer, lady, cowboy, bride, groom, male, female, "
        "guy, traveler, mother, father, gentleman, pitcher, player, skier, snowboarder, skater, "
        "skateboarder, foreigner, caller, offender, coworker, trespasser, patient, politician, soldier, "
        "grandchild, serviceman, walker, drinker, doctor, bicyclist, thief, buyer, teenager, student, "
        "camper, driver, solider, hunter, shopper, villager"
    ),
    "bicycle": "bike, unicycle, minibike, trike",
    "car": "automobile, van, minivan, sedan, suv, hatchback, cab, jeep, coupe, taxicab, limo, taxi",
    "motorcycle": "scooter, motor cycle, motorbike, moped",
    "airplane": "jetliner, plane, air plane, monoplane, aircraft, jet, airbus, biplane, seaplane",
    "bus": "minibus, trolley",
    "train": "locomotive, tramway, caboose",
    "truck": "pickup, lorry, hauler, firetruck",
    "boat": (
        "ship, liner, sailboat, motorboat, dinghy, powerboat, speedboat, canoe, skiff, yacht, kayak, "
        "catamaran, pontoon, houseboat, vessel, rowboat, trawler, ferryboat, watercraft, tugboat, "
        "schooner, barge, ferry, sailboard, paddleboat, lifeboat, freighter, steamboat, riverboat, "
        "battleship, steamship"
    ),
    "traffic light": "street light, traffic signal, stop light, streetlight, stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": (
        "ostrich, owl, seagull, goose, duck, parakeet, falcon, robin, pelican, waterfowl, heron, "
        "hummingbird, mallard, finch, pigeon, sparrow, seabird, osprey, blackbird, fowl, shorebird, "
        "woodpecker, egret, chickadee, quail, bluebird, kingfisher, buzzard, willet, gull, swan, bluejay, "
        "flamingo, cormorant, parrot, loon, gosling, waterbird, pheasant, rooster, sandpiper, crow, raven, "
        "turkey, oriole, cowbird, warbler, magpie, peacock, cockatiel, lorikeet, puffin, vulture, condor, "
        "macaw, peafowl, cockatoo, songbird"
    ),
    "cat": "kitten, feline, tabby",
    "dog": (
        "puppy, beagle, pup, chihuahua, schnauzer, dachshund, rottweiler, canine, pitbull, collie, pug, "
        "terrier, poodle, labrador, doggie, doberman, mutt, doggy, spaniel, bulldog, sheepdog, weimaraner, "
        "corgi, cocker, greyhound, retriever, brindle, hound, whippet, husky"
    ),
    "horse": (
        "colt, pony, racehorse, stallion, equine, mare, foal, palomino, mustang, clydesdale, bronc, bronco"
    ),
    "sheep": "lamb, ram, goat, ewe",
    "cow": "cattle, oxen, ox, calf, holstein, heifer, buffalo, bull, zebu, bison",
    "elephant": "",
    "bear": "panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "knapsack",
    "umbrella": "",
    "handbag": "wallet, purse, briefcase",
    "tie": "bow, bow tie",
    "suitcase": "suit case, luggage",
    "frisbee": "",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "",
    "skateboard": "",
    "surfboard": "longboard, skimboard, shortboard, wakeboard",
    "tennis racket": "racket",
    "bottle": "",
    "wine glass": "",
    "cup": "",
    "fork": "",
    "knife": "pocketknife, knive",
    "spoon": "",
    "bowl": "container",
    "banana": "",
    "apple": "",
    "sandwich": "burger, sub, cheeseburger, hamburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "",
    "pizza": "",
    "donut": "doughnut, bagel",
    "cake": "cupcake, shortcake, coffeecake, pancake",
    "chair": "seat, stool",
    "couch": "sofa, recliner, futon, loveseat, settee, chesterfield",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table, desk",
    "toilet": "urinal, commode, lavatory, potty",
    "tv": "monitor, televison, television",
    "laptop": "computer, notebook, netbook, lenovo, macbook, laptop computer",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "mobile phone, phone, cellphone, telephone, phon, smartphone, iPhone",
    "microwave": "",
    "oven": "stovetop, stove, stove top oven",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge, freezer",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddybear",
    "hair drier": "hairdryer",
    "toothbrush": "",
}
CATEGORIES = tuple(WORDS)
CATEGORY_OF = {
    word: category
    for category, others in WORDS.items()
    for word in [category, *(word for word in others.split(", ") if word)]
}

_PAIRS = """
    motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light,
    fire hydrant, stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove,
    tennis racket, wine glass, hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant,
    laptop computer, home plate, train track
"""
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"
# Pairs of words that are merged into one: "home plate" is not a plate, "baby elephant" not a person.
MERGED = {
    **{pair: pair for pair in " ".join(_PAIRS.split()).split(", ")},
    **{f"{age} {animal}": animal for animal in _ANIMALS.split() for age in ("baby", "adult")},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
